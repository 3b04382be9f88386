# For the scripts that run inside of a root: checks, and a containerd. To be sourced.

fail() {
  echo "FAILED: $*" >&2
  if [[ -s /tmp/containerd.log ]]; then
    echo "The end of containerd's log:" >&2
    tail -n 30 /tmp/containerd.log >&2
  fi
  exit 1
}

# eventually COMMAND…: repeated until it succeeds, for at most a minute.
eventually() {
  local i
  for ((i = 0; i < 600; i++)); do
    "$@" && return
    sleep 0.1
  done
  return 1
}

expect() {
  [[ $2 == "$3" ]] || fail "$1: expected '$3', got '$2'"
}

ctr() { command ctr --namespace "$FEATHER_NAMESPACE" "$@"; }

answers() {
  kill -0 "$containerd" 2>/dev/null || fail "containerd ended"
  ctr version >/dev/null 2>&1
}

start_containerd() {
  (cd / && exec containerd "$@") >/tmp/containerd.log 2>&1 &
  containerd=$!
  eventually answers || fail "containerd does not answer"
}

stop_containerd() {
  kill "$containerd"
  wait "$containerd" || true
}

# The root file system of the containers.
make_rootfs() {
  mkdir -p /tmp/rootfs/{bin,dev,proc,sys,tmp}
  cp /bin/busybox /tmp/rootfs/bin/
  chroot /tmp/rootfs /bin/busybox --install -s /bin
}

# run ID RUNTIME [FLAG…] -- COMMAND…
run() {
  local id=$1 runtime=$2 flags=()
  shift 2
  while [[ $1 != -- ]]; do flags+=("$1") && shift; done
  shift
  ctr run --runtime "$runtime" --rootfs --env PATH=/bin "${flags[@]}" /tmp/rootfs "$id" "$@"
}

# The pid of the shim of a running container.
shim_of() {
  local init
  init=$(<"/run/containerd/io.containerd.runtime.v2.task/$FEATHER_NAMESPACE/$1/init.pid")
  awk '/^PPid/ { print $2 }' "/proc/$init/status"
}

is_status() { [[ $(ctr task ls | awk -v id="$1" '$1 == id { print $3 }') == "$2" ]]; }

remove_container() {
  ctr task kill --signal SIGKILL "$1" || fail "killing $1"
  eventually is_status "$1" STOPPED || fail "$1 does not stop"
  ctr task delete "$1" >/dev/null 2>&1 || true # 137, the container's own status
  is_status "$1" "" || fail "the task $1 is still there"
  ctr container delete "$1" || fail "deleting $1"
}
