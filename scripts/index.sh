# shellcheck shell=bash
# Sourced: tells uv what pip was told (index, certificates), by variables, where uv was told nothing. Writes nothing.
# The machine's own certificates count, as they do for pip.

pip_setting() { # NAME VARIABLE: the variable, else pip's own configuration
  if [ -n "${!2:-}" ]; then printf '%s\n' "${!2}"; else sed -n "s/^[a-z]*\.$1='\(.*\)'\$/\1/p" <<<"$pip_configuration" | tail -n 1; fi
}

share_index_settings() {
  local pip_configuration setting
  pip_configuration=$("${1:-python3}" -m pip config list 2>/dev/null || true)
  if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then
    setting=$(pip_setting index-url PIP_INDEX_URL)
    [ -z "$setting" ] || export UV_DEFAULT_INDEX=$setting
  fi
  if [ -z "${UV_INDEX:-}${UV_EXTRA_INDEX_URL:-}" ]; then
    setting=$(pip_setting extra-index-url PIP_EXTRA_INDEX_URL)
    [ -z "$setting" ] || export UV_EXTRA_INDEX_URL=$setting
  fi
  if [ -z "${UV_FIND_LINKS:-}" ]; then
    setting=$(pip_setting find-links PIP_FIND_LINKS)
    [ -z "$setting" ] || export UV_FIND_LINKS=$setting
  fi
  if [ -z "${SSL_CERT_FILE:-}" ]; then
    setting=$(pip_setting cert PIP_CERT)
    [ -z "$setting" ] || export SSL_CERT_FILE=$setting
  fi
  export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-1}
}
