"""What the subcommands of `dsjax` do, without the parsing: one module a command."""
