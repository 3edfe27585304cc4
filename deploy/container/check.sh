#!/usr/bin/env bash
# Runs the Dockerfile's build on a machine without a container engine: the steps of the stage `build`,
# in their order, in an empty folder, on what Dockerfile.dockerignore lets through. Then looks at the
# programs as the images have them: that they start, and that they need no library beyond those of the
# runtime image.
set -euo pipefail
cd "$(dirname "$0")/../.."

dockerfile=deploy/container/Dockerfile
# What gcr.io/distroless/cc-debian12 has for a program in Rust.
libraries='linux-vdso|ld-linux-.*|libc|libgcc_s|libm'

fail() {
    echo "$0: $*" >&2
    exit 1
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
context=$scratch/context
image=$scratch/image
mkdir "$context" "$image"

# Nothing but the exceptions to `*`, which is how that file is written.
while read -r rule; do
    case $rule in
        '' | '#'* | '*') ;;
        '!'*) cp -R --parents --preserve=mode,timestamps "${rule#!}" "$context/" ;;
        *) fail "Dockerfile.dockerignore: the rule $rule is not understood; there may be \`*\` and exceptions" ;;
    esac
done <deploy/container/Dockerfile.dockerignore

# What the caller has set must not reach the build. Nothing is optimized: that takes minutes, and the steps, the
# files and the libraries are the same.
settings=(-u CARGO_TARGET_DIR -u RUSTFLAGS -u RUSTC_WRAPPER
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off
    CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=false)
folder=$image

copy() {
    local target=$folder/${*: -1} source
    for source in "${@:1:$#-1}"; do
        [ -e "$context/$source" ] || fail "COPY: $source is not there, or Dockerfile.dockerignore does not let it through"
        if [ -d "$context/$source" ]; then
            mkdir -p "$target"
            cp -R --preserve=mode,timestamps "$context/$source/." "$target"
        else
            [[ $target != */ ]] || mkdir -p "$target"
            cp --preserve=mode,timestamps "$context/$source" "$target"
        fi
    done
}

stage=''
programs=()
while read -r instruction rest; do
    [[ $rest != *\\ ]] || fail "a step of several lines is not understood: $instruction $rest"
    if [ "$instruction" = FROM ]; then
        stage=${rest##* }
    elif [ "$stage" != build ]; then
        if [[ "$instruction $rest" == COPY\ --from=build\ * ]]; then
            read -r _ program _ <<<"$rest"
            programs+=("$image$program")
        fi
    else
        echo "$instruction $rest"
        case $instruction in
            WORKDIR)
                folder=$image$rest
                mkdir -p "$folder"
                ;;
            ENV) settings+=("$rest") ;;
            COPY)
                read -ra words <<<"$rest"
                copy "${words[@]}"
                ;;
            RUN) (cd "$folder" && env "${settings[@]}" sh -euc "$rest") </dev/null ;;
            *) fail "the instruction $instruction is not understood" ;;
        esac
    fi
done < <(grep -vE '^(#|$)' "$dockerfile")

[ ${#programs[@]} = 2 ] || fail "not two programs are copied into images, but: ${programs[*]}"
for program in "${programs[@]}"; do
    "$program" --version
    others=$(ldd "$program" | awk '{ print $1 }' | grep -vE "(^|/)($libraries)\.so" || true)
    [ -z "$others" ] || fail "$program needs libraries that the runtime image has not: $others"
done
