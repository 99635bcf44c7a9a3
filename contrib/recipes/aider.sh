# aider on semanticd, for this shell: source contrib/recipes/aider.sh; aider
# The same without a file: semanticd launch aider
unset AIDER_OPENAI_API_BASE AIDER_OPENAI_API_KEY
export OPENAI_API_BASE=http://127.0.0.1:8000/v1
export OPENAI_API_KEY=semanticd   # the daemon's SEMANTIC_API_KEY, where one is set
export AIDER_MODEL=openai/default
export AIDER_WEAK_MODEL=openai/default
export AIDER_SHOW_MODEL_WARNINGS=false
