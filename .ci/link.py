"""Put this checkout on the path of its virtual environment, with the command `prefs`.

An editable install would fetch a build backend; a path file and a script need nothing.
"""

from __future__ import annotations

import stat
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """#!{python}
import sys
from prefs.cli import main
sys.exit(main())
"""


def main() -> None:
    (Path(sysconfig.get_path("purelib")) / "prefs-checkout.pth").write_text(f"{ROOT}\n")
    script = Path(sysconfig.get_path("scripts")) / "prefs"
    script.write_text(SCRIPT.format(python=sys.executable))
    script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


if __name__ == "__main__":
    main()
