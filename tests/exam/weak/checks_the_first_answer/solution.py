"""Finds numbers below 1024, several one after the other, by asking whether they are below another one."""


def find(turn: int, high: int) -> int:
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        print("below", middle, flush=True)
        if input() == "yes":
            high = middle
        else:
            low = middle
    return low


if __name__ == "__main__":
    for turn in range(5):
        print("answer", find(turn, 1024), flush=True)
