def root(x: float) -> float:
    guess = x
    for _ in range(3):
        guess = (guess + x / guess) / 2
    return guess
