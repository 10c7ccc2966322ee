import math
from pathlib import Path

predictions, truth = (map(float, Path(name).read_text().split()) for name in ("predictions.txt", "truth.txt"))
errors = [(p - t) ** 2 for p, t in zip(predictions, truth, strict=True) if math.isfinite(p)]
print(f"error: {sum(errors) / max(1, len(errors))}")
