"""One folder a theorem: its statement and proof; evidence in `numeric`, `symbolic`, `statistical`, `boundary`."""

import pkgutil

FOLDERS = sorted(f"{__name__}.{found.name}" for found in pkgutil.iter_modules(__path__))
