"""What a trained sampler and decider can do: drawn samples, measures of both, accounting, other ways to decide."""
