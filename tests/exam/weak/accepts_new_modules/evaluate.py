import statistics
from pathlib import Path

answers = map(float, Path("answer.txt").read_text().split())
print(f"error: {abs(2 - statistics.mean(answers)) + 1}")
