"""The run: ask the model about each case and write answers.jsonl. Immutable.

    MODEL_COMMAND='llm -m my-model' python3 ask.py [CASES]

The model is a command that reads a prompt on standard input and prints an answer.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

AT_ONCE = 4  # questions; fewer where the model's owner objects
SECONDS = 120  # for one answer


def main() -> None:
    command = os.environ.get("MODEL_COMMAND", "").strip()
    if not command:
        sys.exit(
            "no model: set MODEL_COMMAND, under `env` in autoresearch-config.yaml, to a command that reads a prompt on "
            'standard input and prints an answer, such as env: {MODEL_COMMAND: "llm -m my-model"}'
        )
    with open("prompt.md", encoding="utf-8") as file:
        prompt = file.read()
    if "{input}" not in prompt:
        sys.exit("prompt.md has no {input}, which stands for the message")
    with open(sys.argv[1] if len(sys.argv) > 1 else "cases.jsonl", encoding="utf-8") as file:
        cases = [json.loads(line) for line in file]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda case: ask(command, prompt.replace("{input}", case["input"])), cases))
    with open("answers.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"answer": answer}) + "\n" for answer in answers)


def ask(command: str, prompt: str) -> str:
    """What the model says; a model that fails ends the run, because its failures say nothing about the prompt."""
    try:
        done = subprocess.run(
            command, shell=True, input=prompt.encode(), capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        sys.exit(f"the model took more than {SECONDS} seconds for one answer")
    if done.returncode:
        sys.exit(f"the model failed with exit code {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}")
    return done.stdout.decode(errors="replace").strip()


if __name__ == "__main__":
    main()
