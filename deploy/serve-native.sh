#!/bin/sh
# Runs NVIDIA's tritonserver over $MODELS, closed by default, and stops it without losing what it has taken: on SIGTERM the models
# refuse new requests (they look for the file `stopping`), those taken get $DRAIN_SECONDS, and only then tritonserver is told to end.
set -eu
MODELS="${MODELS:-/models}"

tritonserver \
  --model-repository="$MODELS" \
  --disable-auto-complete-config \
  --exit-on-error=true \
  --strict-readiness=true \
  --model-control-mode=none \
  --allow-http=false \
  --allow-sagemaker=false \
  --allow-vertex-ai=false \
  --grpc-address=127.0.0.1 \
  --grpc-port=8001 \
  --metrics-address=127.0.0.1 \
  --metrics-port=8002 \
  --exit-timeout-secs=5 \
  --grpc-restricted-protocol="shared-memory,model-repository,model-config,logging,trace,statistics:admin-key=$(head -c 24 /dev/urandom | base64)" \
  --grpc-header-forward-pattern='^(traceparent|x-tenant)$' \
  --grpc-keepalive-time=20000 \
  --grpc-infer-allocation-pool-size=16 \
  --grpc-max-response-pool-size=64 \
  --backend-config=python,thread-pool-size=80 \
  --backend-config=python,stub-timeout-seconds=120 &
server=$!

stop() {
  touch "$MODELS/stopping"
  sleep "${DRAIN_SECONDS:-30}"
  kill -TERM "$server"
}
trap stop TERM INT

status=0
wait "$server" || status=$?
if [ -e "$MODELS/stopping" ]; then   # the signal ended that wait, and `stop` has run
  status=0
  wait "$server" || status=$?
fi
exit "$status"
