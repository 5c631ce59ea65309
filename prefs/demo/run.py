"""prefs demo: the service, its worker and eleven vendor twins on this machine, and a story that a
person can watch and click through, or that runs by itself and checks every step.

The twins come from the checkout's `tests/twins`; nothing leaves the loopback interface.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

from rich.console import Console

from prefs.demo import story
from prefs.demo.people import ERIN
from prefs.demo.stage import ROOT, Stage, StepFailed, free_port
from prefs.demo.system import NotDone
from prefs.demo.systems import SYSTEMS

FOLDER = ROOT / ".prefs-demo"


def run(*, check: bool, port: int, folder: Path | None) -> int:
    """Returns the exit code. `folder` is a new or empty one (default: that of the checkout, made
    anew each time)."""
    console = Console(soft_wrap=True)
    signal.signal(signal.SIGTERM, _interrupted)
    if not (ROOT / "tests" / "twins").is_dir():
        console.print("prefs demo needs a checkout: its vendor twins live in tests/twins")
        return 1
    if folder and folder.exists() and any(folder.iterdir()):
        console.print(f"{folder} is not empty: name a new folder")
        return 1
    stage = Stage(console, _emptied(folder), port or free_port(), dict(os.environ))
    try:
        stage.start()
        _heading(stage)
        story.tell(stage)
        if not check:
            _invite(stage)
            _wait()
    except (StepFailed, NotDone) as fault:
        stage.say(f"[red]failed:[/red] {fault} (logs in {stage.folder}/)")
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        stage.end()
    return 0


def _emptied(folder: Path | None) -> Path:
    if folder is None and FOLDER.exists():
        shutil.rmtree(FOLDER)
    made = (folder or FOLDER).resolve()
    made.mkdir(parents=True, exist_ok=True)
    return made


def _interrupted(number: int, frame: object) -> None:
    """SIGTERM ends the demo as Ctrl-C does, its children with it."""
    raise KeyboardInterrupt


def _heading(stage: Stage) -> None:
    stage.say(f"\n{'prefs':<14} {stage.url}/p?brand=rt")
    for name, vendor in stage.vendors.items():
        stage.say(f"{name:<14} {vendor.url}/")
    stage.say()


def _invite(stage: Stage) -> None:
    """What a person may open, press and type."""
    made = stage.links(ERIN)
    stage.say("\nEverything stays up. Try it yourself, as Erin, who said no to nothing yet:")
    stage.say(f"  unsubscribe page   {made['unsubscribe']}")
    stage.say(f"  preference centre  {made['preferences']}")
    stage.say(f"  ask for a link     {stage.url}/p?brand=rt  (mails land in {stage.folder}/mail)")
    stage.say("\nOr inside a vendor; each page shows who is on and off, and the calls it got:")
    for name, vendor in stage.vendors.items():
        stage.say(f"  {name:<14} {vendor.url}/   {SYSTEMS[name].try_it}")
    stage.say("\nFrom another terminal: may we send, and what is left for staff to do at Timely")
    bearer = f"-H 'Authorization: Bearer {stage.key}'"
    body = '{"brand":"rt","channel":"email","purpose":"marketing","to":["amelia@example.com"]}'
    stage.say(f"  curl -s {stage.url}/v1/check {bearer} -d '{body}'")
    tasks = f"'{stage.url}/v1/tasks?kind=timely_change&state=open'"
    stage.say(f"  curl -s {tasks} {bearer} -H 'Accept: text/csv'")
    stage.say("\nTimely's export as proof; what the vendors hold; the ledger; the webhooks:")
    command = f".venv/bin/prefs --config {stage.folder / 'prefs.toml'}"
    export = stage.folder / "export.csv"
    stage.say(f"  curl -s {stage.vendors['timely'].url}/export.csv -o {export}")
    stage.say(f"  {command} sync timely --from {export} --apply")
    for rest in ("sync", "ledger verify", "doctor"):
        stage.say(f"  {command} {rest}")
    stage.say("\nCtrl-C ends it.")


def _wait() -> None:
    while True:
        signal.pause()
