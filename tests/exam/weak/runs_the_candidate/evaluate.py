import math

from solution import root

numbers = range(1, 9)
print(f"error: {sum(abs(root(x) - math.sqrt(x)) for x in numbers) / len(numbers):.6f}")
