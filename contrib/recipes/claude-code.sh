# Claude Code on semanticd, for this shell: source contrib/recipes/claude-code.sh; claude
# The same without a file: semanticd launch claude
unset ANTHROPIC_API_KEY CLAUDE_CODE_USE_BEDROCK CLAUDE_CODE_USE_VERTEX
export ANTHROPIC_BASE_URL=http://127.0.0.1:8000
export ANTHROPIC_AUTH_TOKEN=semanticd   # the daemon's SEMANTIC_API_KEY, where one is set
export ANTHROPIC_MODEL=default
export ANTHROPIC_SMALL_FAST_MODEL=default
export ANTHROPIC_DEFAULT_HAIKU_MODEL=default
export ANTHROPIC_DEFAULT_SONNET_MODEL=default
export ANTHROPIC_DEFAULT_OPUS_MODEL=default
export CLAUDE_CODE_MAX_OUTPUT_TOKENS=8192         # a quarter of the model's context
export CLAUDE_CODE_AUTO_COMPACT_WINDOW=32768      # the model's context
export CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1
