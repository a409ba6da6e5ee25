"""The objective atlas: exact decision shares of every objective, for answers of any length."""
