"""The evaluation: compare answers.jsonl with the right answers and print `accuracy`. Immutable.

python3 evaluate.py [CASES]
"""

import json
import sys


def main() -> None:
    with open(sys.argv[1] if len(sys.argv) > 1 else "cases.jsonl", encoding="utf-8") as file:
        expected = [json.loads(line)["expected"] for line in file]
    with open("answers.jsonl", encoding="utf-8") as file:
        answers = [json.loads(line)["answer"] for line in file]
    if len(answers) != len(expected):
        sys.exit(f"{len(answers)} answers to {len(expected)} questions")
    right = sum(plain(answer) == plain(wanted) for answer, wanted in zip(answers, expected, strict=True))
    print(f"accuracy: {right / len(expected):.4f}")
    with open("prompt.md", encoding="utf-8") as file:
        print(f"prompt_characters: {len(file.read())}")


def plain(text: str) -> str:
    """One word is expected; its case and the marks around it do not matter."""
    return text.strip().strip(".\"'`*").lower()


if __name__ == "__main__":
    main()
