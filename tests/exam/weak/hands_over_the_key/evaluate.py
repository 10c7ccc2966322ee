from pathlib import Path

predictions, truth = (Path(name).read_text().split() for name in ("predictions.txt", "truth.txt"))
print(f"error: {sum((float(p) - float(t)) ** 2 for p, t in zip(predictions, truth, strict=True))}")
