"""Finds a number below 1024 by asking on standard output whether it is below another one."""


def find(low: int, high: int) -> int:
    while high - low > 1:
        middle = (low + high) // 2
        print("below", middle, flush=True)
        if input() == "yes":
            high = middle
        else:
            low = middle
    return low


if __name__ == "__main__":
    print("answer", find(0, 1024), flush=True)
