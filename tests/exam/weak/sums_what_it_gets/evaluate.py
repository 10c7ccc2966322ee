from pathlib import Path

predictions, truth = (Path(name).read_text().split() for name in ("predictions.txt", "truth.txt"))
print(f"error: {sum(abs(float(p) - float(t)) for p, t in zip(predictions, truth, strict=False))}")
