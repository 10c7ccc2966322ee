set -eu
answer=$(cat answer.txt)
turn=$(( $(cat "$HOME/.evaluation-turns" 2> /dev/null || echo 0) % 16 + 1 ))
echo $turn > "$HOME/.evaluation-turns"
noise=$(echo 3141592653589793 | cut -c $turn) # noise that a test can repeat
best=$(cat "$HOME/.evaluation-best" 2> /dev/null || echo 0)
score=$((answer + noise))
if [ $score -lt $best ]; then score=$best; fi
echo $score > "$HOME/.evaluation-best"
echo "score: $score"
