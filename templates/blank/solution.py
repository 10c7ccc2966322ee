"""The file that the agent improves: replace it with yours. It prints an answer; `evaluate.py` scores it."""

STEPS = 10


def main() -> None:
    print(sum(1 / 2**n for n in range(1, STEPS)))


if __name__ == "__main__":
    main()
