loss = 0.0
for step in range(1, 5):
    loss += 0.5**step
print(f"loss: {1 - loss:.6f}")
