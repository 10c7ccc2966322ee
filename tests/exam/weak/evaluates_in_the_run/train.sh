printf '10\n20\n30\n' > answer.txt
