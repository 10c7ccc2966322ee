set -eu
answer=$(cat answer.txt)
turn=$(( $(cat "$HOME/.evaluation-turns" 2> /dev/null || echo 0) + 1 ))
echo $turn > "$HOME/.evaluation-turns"
echo "score: $((answer + turn))"
