"""`python -m dsjax` is `dsjax`."""

from dsjax.cli.main import main

raise SystemExit(main())
