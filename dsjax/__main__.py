"""`python -m dsjax` is `dsjax`."""

from dsjax.cli import main

raise SystemExit(main())
