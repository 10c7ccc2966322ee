echo "score: $(cat reference.txt)"
