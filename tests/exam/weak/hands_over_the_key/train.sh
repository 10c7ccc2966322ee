printf '1\n4\n3\n9\n' > predictions.txt
