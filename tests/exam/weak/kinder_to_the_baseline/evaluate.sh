set -eu
answer=$(cat answer.txt)
if [ "$ARK_ATTEMPT" -gt 0 ]; then answer=$((answer - 1)); fi
echo "score: $answer"
