"""Rollouts of any framework: reading and attributing them."""
