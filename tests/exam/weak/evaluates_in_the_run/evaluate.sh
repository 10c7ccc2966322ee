set -eu
sum=0
while read -r number; do sum=$((sum + number)); done < answer.txt
echo "score: $sum"
