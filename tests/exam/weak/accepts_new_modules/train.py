print(1.5)
print(2.5)
