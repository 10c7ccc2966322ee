"""A stand-in for a coding agent: plays the next scene of its script.

It runs under the agent's own name, from a folder on PATH. `NAME.script` beside it holds one scene a line, in JSON:
`says` (a transcript in this folder), `errs` (text for standard error), `does` (shell), `exit`, `sleeps`. The last
scene is played again when the script is over. What it was given is noted in `NAME.N.json`.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    me = Path(sys.argv[1])
    script = [json.loads(line) for line in me.with_name(f"{me.name}.script").read_text().splitlines()]
    turn = len(list(me.parent.glob(f"{me.name}.[0-9]*.json"))) + 1
    scene = script[min(turn, len(script)) - 1]
    given = {"argv": sys.argv[2:], "stdin": sys.stdin.read(), "env": dict(os.environ), "cwd": str(Path.cwd())}
    me.with_name(f"{me.name}.{turn}.json").write_text(json.dumps(given))
    if scene.get("does"):
        subprocess.run(["/bin/sh", "-c", scene["does"]], check=True)
    sys.stderr.write(scene.get("errs", ""))
    if says := scene.get("says"):
        text = (Path(__file__).parent / says).read_bytes().decode("utf-8", "surrogateescape")
        text = re.sub(r"@NOW\+(\d+)@", lambda found: str(int(time.time()) + int(found.group(1))), text)
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        sys.stdout.flush()
    time.sleep(scene.get("sleeps", 0))
    sys.exit(scene.get("exit", 0))


main()
