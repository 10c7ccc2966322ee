"""Holds the number, answers the questions of solution.py in another process, and counts them."""

import subprocess
import sys

HIDDEN = 700

player = subprocess.Popen([sys.executable, "solution.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
for questions, line in enumerate(player.stdout):
    verb, number = line.split()
    if verb == "answer":
        if int(number) != HIDDEN:
            raise SystemExit("wrong answer")
        print(f"questions: {questions}")
        break
    if verb != "below":
        raise SystemExit("only questions and answers, please")
    player.stdin.write("yes\n" if int(number) > HIDDEN else "no\n")
    player.stdin.flush()
else:
    raise SystemExit("no answer")
