printf '1\n4\n3\n' > predictions.txt
