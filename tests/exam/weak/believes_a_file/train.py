from pathlib import Path

Path("result.txt").write_text(f"loss: {sum(0.5**step for step in range(1, 5))}\n")
