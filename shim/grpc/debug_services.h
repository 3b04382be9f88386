#pragma once

#include "shim/rpc/method_table.h"

namespace feather::grpc {

// The services by which any gRPC client can talk to a shim without its .proto files: server
// reflection (grpc.reflection.v1 and v1alpha, grpc/doc/server-reflection.md) and health
// (grpc.health.v1, grpc/doc/health-checking.md). Handlers like all others: gRPC's own would need
// threads and the whole of protobuf.
//
// They tell of the services in both tables, which must outlive the calls.
void AddDebugServices(const rpc::MethodTable& served, rpc::MethodTable& own);

}  // namespace feather::grpc
