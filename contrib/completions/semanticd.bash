# bash completion for semanticd; made by `semanticd completion bash`
_semanticd() {
    local current="${COMP_WORDS[COMP_CWORD]}" path="" word words="" tried
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ "$word" == -* ]] && continue
        tried="${path:+$path }$word"
        case "$tried" in
            "serve"|"worker"|"start"|"stop"|"restart"|"status"|"logs"|"version"|"config"|"config init"|"config path"|"key"|"key new"|"doctor"|"selftest"|"models"|"models fit"|"models info"|"models list"|"models load"|"models pull"|"models rm"|"models swap"|"models unload"|"agents"|"agents delete"|"agents evict"|"agents export"|"agents fork"|"agents import"|"agents list"|"agents pin"|"agents rewind"|"agents show"|"agents unpin"|"agents why"|"cache"|"cache clear"|"cache prune"|"chat"|"ctl"|"bench"|"bench compare"|"bench replay"|"trace"|"trace show"|"service"|"service install"|"service status"|"service uninstall"|"launch"|"mcp"|"completion") path="$tried" ;;
        esac
    done
    case "$path" in
        "") words="serve worker start stop restart status logs version config key doctor selftest models agents cache chat ctl bench trace service launch mcp completion --version --runtime-dir --help" ;;
        "serve") words="--hosts --model --host --port --log-level --help" ;;
        "worker") words="--rank --model --log-level --help" ;;
        "start") words="--timeout --model --host --port --log-level --help" ;;
        "stop") words="--timeout --now --help" ;;
        "restart") words="--timeout --now --model --host --port --log-level --help" ;;
        "status") words="--json --watch --interval --help" ;;
        "logs") words="--follow --lines --json --path --help" ;;
        "version") words="--json --help" ;;
        "config") words="init path --json --all --daemon --help" ;;
        "config init") words="--force --help" ;;
        "config path") words="--help" ;;
        "key") words="new --help" ;;
        "key new") words="--help" ;;
        "doctor") words="--json --local --generate --no-generate --help" ;;
        "selftest") words="--json --quick --model --help" ;;
        "models") words="fit info list load pull rm swap unload --help" ;;
        "models fit") words="--memory --json --help" ;;
        "models info") words="--json --help" ;;
        "models list") words="--json --help" ;;
        "models load") words="--json --help" ;;
        "models pull") words="--json --help" ;;
        "models rm") words="--json --help" ;;
        "models swap") words="--json --help" ;;
        "models unload") words="--json --help" ;;
        "agents") words="delete evict export fork import list pin rewind show unpin why --help" ;;
        "agents delete") words="--json --help" ;;
        "agents evict") words="--json --help" ;;
        "agents export") words="--force --json --help" ;;
        "agents fork") words="--json --help" ;;
        "agents import") words="--as --trust --json --help" ;;
        "agents list") words="--json --sort --help" ;;
        "agents pin") words="--ttl --json --help" ;;
        "agents rewind") words="--turns --json --help" ;;
        "agents show") words="--json --help" ;;
        "agents unpin") words="--json --help" ;;
        "agents why") words="--last --json --help" ;;
        "cache") words="clear prune --by --json --help" ;;
        "cache clear") words="--yes --json --help" ;;
        "cache prune") words="--dry-run --json --help" ;;
        "chat") words="--max-tokens --fork --help" ;;
        "ctl") words="--json --agent --timeout --help" ;;
        "bench") words="compare replay --base-url --model --api-key --name --scenario --lengths --streams --agents --turns --prefill-tokens --dropped-tokens --decode-tokens --repeats --seed --stop-token-id --restart-command --swap-command --timeout --output --plots --png --json --help" ;;
        "bench compare") words="--plots --png --help" ;;
        "bench replay") words="--url --model --api-key --name --agents --restart-at --restart-command --evict-at --requests --one-in --concurrent --speed --max-tokens --as-chat --tokenizer --timeout --json --help" ;;
        "trace") words="show --help" ;;
        "trace show") words="--request --json --help" ;;
        "service") words="install status uninstall --help" ;;
        "service install") words="--start --no-start --print --help" ;;
        "service status") words="--json --help" ;;
        "service uninstall") words="--help" ;;
        "launch") words="--print --model --help" ;;
        "mcp") words="--agent --http --host --port --help" ;;
        "completion") words="--help" ;;
    esac
    COMPREPLY=()
    for word in $words; do
        [[ "$word" == "$current"* && ( "$word" != --* || "$current" == -* ) ]] && COMPREPLY+=("$word")
    done
}
complete -o default -F _semanticd semanticd semantic
