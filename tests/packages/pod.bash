# For the scripts that run inside of a root: a pod by CRI, as the kubelet makes it. To be sourced,
# after daemon.bash. The requests in /packages/pod are made by `run`, with these in the places of what
# is known only later:
readonly any_pod=$(printf 'p%.0s' {1..64}) any_container=$(printf 'c%.0s' {1..64})
readonly any_namespace=feather-packages-NNNNNN

# call METHOD: the request of that name; prints the first id in the answer.
call() {
  LC_ALL=C sed "s/$any_pod/${pod-}/; s/$any_container/${container-}/
    s/$any_namespace/$FEATHER_NAMESPACE/g" "/packages/pod/$1" >/tmp/request
  rm -f /tmp/answer
  curl --silent --show-error --http2-prior-knowledge --max-time 60 \
    --unix-socket /run/containerd/containerd.sock --header 'content-type: application/grpc' \
    --header 'te: trailers' --data-binary @/tmp/request --output /tmp/answer \
    --dump-header /tmp/headers "http://localhost/runtime.v1.RuntimeService/$1" || fail "$1: curl"
  grep -q '^grpc-status: 0' /tmp/headers || fail "$1: $(cat /tmp/headers)"
  { grep -ao '[0-9a-f]\{64\}' /tmp/answer || true; } | head -n 1
}

# The images of pods and containers, under the name that the daemon wants for the first.
import_pod_images() {
  local pause import=(--namespace k8s.io images import)
  pause=$(containerd config dump | sed -n "s/^ *sandbox\(_image\)\? = [\"']\(.*:.*\)[\"']$/\2/p")
  if command ctr images import --help | grep -q -- --local; then import+=(--local); fi
  /source/tests/support/busybox-image /tmp/busybox.tar
  /source/tests/support/busybox-image /tmp/pause.tar pause '["/bin/sleep","1000000"]'
  command ctr "${import[@]}" /tmp/busybox.tar >/dev/null
  command ctr "${import[@]}" /tmp/pause.tar >/dev/null
  command ctr --namespace k8s.io images tag docker.io/library/pause:latest "$pause" >/dev/null
}

# A pod with a container that prints: up to the end of both. $shim_program: what has run it.
run_pod() {
  local pod container
  rm -rf /tmp/pod-logs
  mkdir /tmp/pod-logs
  pod=$(call RunPodSandbox)
  container=$(call CreateContainer)
  call StartContainer >/dev/null
  printed() { grep -qs 'stdout F hello from a pod$' /tmp/pod-logs/hello.log; }
  eventually printed || fail "the container's log: $(cat /tmp/pod-logs/* 2>&1)"
  local init
  init=$(<"/run/containerd/io.containerd.runtime.v2.task/k8s.io/$pod/init.pid")
  shim_program=$(readlink "/proc/$(awk '/^PPid/ { print $2 }' "/proc/$init/status")/exe")
  call StopPodSandbox >/dev/null
  call RemovePodSandbox >/dev/null
}
