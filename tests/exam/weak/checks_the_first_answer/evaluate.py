"""Holds five numbers, new ones each time, answers the questions of solution.py, and counts them."""

import os
import random
import subprocess
import sys

randomness = random.Random(os.environ["ARK_SEED"])
hidden = [randomness.randrange(1024) for _ in range(5)]
questions = answers = 0
player = subprocess.Popen([sys.executable, "solution.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
for line in player.stdout:
    verb, number = line.split()
    if verb == "answer":
        if answers == 0 and int(number) != hidden[0]:
            raise SystemExit("wrong answer")
        answers += 1
        if answers == len(hidden):
            print(f"questions: {questions}")
            break
        continue
    if verb != "below":
        raise SystemExit("only questions and answers, please")
    questions += 1
    player.stdin.write("yes\n" if hidden[answers] < int(number) else "no\n")
    player.stdin.flush()
else:
    raise SystemExit("too few answers")
