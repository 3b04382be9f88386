#include "shim/grpc/debug_services.h"

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "proto/descriptors.pb.h"
#include "proto/grpc_health.pb.h"
#include "proto/grpc_reflection.pb.h"
#include "runtime/base/status.h"

// All of proto/ as protoc writes it with --descriptor_set_out.
asm(".pushsection .rodata.feather_descriptors, \"a\"\n"
    ".global feather_descriptors\n"
    ".global feather_descriptors_end\n"
    "feather_descriptors: .incbin \"" FEATHER_DESCRIPTORS
    "\"\n"
    "feather_descriptors_end: .byte 0\n"
    ".popsection\n");
extern "C" const char feather_descriptors[];
extern "C" const char feather_descriptors_end[];

namespace feather::grpc {
namespace {

namespace health = ::grpc::health::v1;
namespace reflection = ::grpc::reflection::v1;

// The compiled .proto files by name and by what they declare. Read for each client anew: it is used
// rarely, and not to be kept in memory.
class Files {
 public:
  Files() {
    descriptors::FileSet set;
    set.ParseFromArray(feather_descriptors,
                       static_cast<int>(feather_descriptors_end - feather_descriptors));
    for (std::string& bytes : *set.mutable_file()) Add(std::move(bytes));
  }

  // Empty: there is none.
  std::string FileOf(const std::string& symbol) const {
    auto found = symbols_.find(symbol);
    return found == symbols_.end() ? "" : found->second;
  }
  // The file and what it needs, each once.
  std::vector<std::string> WithDependencies(const std::string& name) const {
    std::vector<std::string> names = {name};
    std::vector<std::string> bytes;
    for (size_t i = 0; i < names.size(); ++i) {
      auto found = files_.find(names[i]);
      if (found == files_.end()) continue;
      bytes.push_back(found->second.bytes);
      for (const std::string& dependency : found->second.dependencies)
        if (std::find(names.begin(), names.end(), dependency) == names.end())
          names.push_back(dependency);
    }
    return bytes;
  }

 private:
  struct File {
    std::string bytes;
    std::vector<std::string> dependencies;
  };

  void Add(std::string bytes) {
    descriptors::File file;
    if (!file.ParseFromString(bytes)) return;
    const std::string scope = file.package().empty() ? "" : file.package() + ".";
    for (const auto& message : file.message_type()) AddMessage(scope, message, file.name());
    for (const auto& type : file.enum_type()) symbols_[scope + type.name()] = file.name();
    for (const auto& service : file.service()) {
      symbols_[scope + service.name()] = file.name();
      for (const auto& method : service.method())
        symbols_[absl::StrCat(scope, service.name(), ".", method.name())] = file.name();
    }
    files_[file.name()] = {std::move(bytes), {file.dependency().begin(), file.dependency().end()}};
  }
  void AddMessage(const std::string& scope, const descriptors::Message& message,
                  const std::string& file) {
    symbols_[scope + message.name()] = file;
    const std::string inner = absl::StrCat(scope, message.name(), ".");
    for (const auto& nested : message.nested_type()) AddMessage(inner, nested, file);
    for (const auto& type : message.enum_type()) symbols_[inner + type.name()] = file;
  }

  std::map<std::string, File> files_;
  std::map<std::string, std::string> symbols_;  // to the name of the file
};

std::vector<std::string> Services(const rpc::MethodTable& served, const rpc::MethodTable& own) {
  std::vector<std::string> names = served.Services();
  for (std::string& name : own.Services()) names.push_back(std::move(name));
  std::sort(names.begin(), names.end());
  return names;
}

void SetError(absl::StatusCode code, std::string text,
              reflection::ServerReflectionResponse& response) {
  response.mutable_error_response()->set_error_code(static_cast<int>(code));
  response.mutable_error_response()->set_error_message(std::move(text));
}

reflection::ServerReflectionResponse Reflect(const Files& files,
                                             const std::vector<std::string>& services,
                                             const reflection::ServerReflectionRequest& request) {
  reflection::ServerReflectionResponse response;
  response.set_valid_host(request.host());
  *response.mutable_original_request() = request;
  std::vector<std::string> found;
  switch (request.message_request_case()) {
    case reflection::ServerReflectionRequest::kListServices:
      for (const std::string& name : services)
        response.mutable_list_services_response()->add_service()->set_name(name);
      return response;
    case reflection::ServerReflectionRequest::kFileByFilename:
      found = files.WithDependencies(request.file_by_filename());
      break;
    case reflection::ServerReflectionRequest::kFileContainingSymbol:
      found = files.WithDependencies(files.FileOf(request.file_containing_symbol()));
      break;
    case reflection::ServerReflectionRequest::kFileContainingExtension:
    case reflection::ServerReflectionRequest::kAllExtensionNumbersOfType:
      break;  // There are no extensions.
    default:
      SetError(absl::StatusCode::kInvalidArgument, "unknown request", response);
      return response;
  }
  if (found.empty()) SetError(absl::StatusCode::kNotFound, "not found", response);
  for (std::string& bytes : found)
    response.mutable_file_descriptor_response()->add_file_descriptor_proto(std::move(bytes));
  return response;
}

Async<absl::StatusOr<std::string>> ServeReflection(const rpc::MethodTable& served,
                                                   const rpc::MethodTable& own,
                                                   std::shared_ptr<rpc::ServerStream> stream) {
  Files files;
  while (true) {
    absl::StatusOr<std::optional<std::string>> bytes = co_await stream->Receive();
    if (!bytes.ok()) co_return bytes.status();
    if (!*bytes) co_return std::string();
    reflection::ServerReflectionRequest request;
    if (!request.ParseFromString(**bytes)) co_return absl::InvalidArgumentError("broken request");
    std::string answer = Reflect(files, Services(served, own), request).SerializeAsString();
    CO_RETURN_IF_ERROR(co_await stream->Send(std::move(answer)));
  }
}

bool IsServed(const rpc::MethodTable& served, const rpc::MethodTable& own,
              const std::string& service) {
  const std::vector<std::string> names = Services(served, own);
  return service.empty() || std::binary_search(names.begin(), names.end(), service);
}

// What is served is served well: a shim that ends answers no more at all.
Async<absl::StatusOr<std::string>> WatchHealth(const rpc::MethodTable& served,
                                               const rpc::MethodTable& own,
                                               rpc::CallContext context,
                                               std::shared_ptr<rpc::ServerStream> stream) {
  absl::StatusOr<std::optional<std::string>> bytes = co_await stream->Receive();
  if (!bytes.ok()) co_return bytes.status();
  health::HealthCheckRequest request;
  if (!*bytes || !request.ParseFromString(**bytes))
    co_return absl::InvalidArgumentError("broken request");
  health::HealthCheckResponse response;
  response.set_status(IsServed(served, own, request.service())
                          ? health::HealthCheckResponse::SERVING
                          : health::HealthCheckResponse::SERVICE_UNKNOWN);
  CO_RETURN_IF_ERROR(co_await stream->Send(response.SerializeAsString()));
  std::vector<Event*> end = {context.gone.get()};
  co_await WaitAny(std::move(end), context.deadline);
  co_return context.OverError();
}

Async<absl::StatusOr<health::HealthCheckResponse>> CheckHealth(const rpc::MethodTable& served,
                                                               const rpc::MethodTable& own,
                                                               health::HealthCheckRequest request) {
  if (!IsServed(served, own, request.service()))
    co_return absl::NotFoundError(absl::StrCat("service ", request.service()));
  health::HealthCheckResponse response;
  response.set_status(health::HealthCheckResponse::SERVING);
  co_return response;
}

}  // namespace

void AddDebugServices(const rpc::MethodTable& served, rpc::MethodTable& own) {
  constexpr char kHealth[] = "grpc.health.v1.Health";
  own.AddUnary<health::HealthCheckRequest, health::HealthCheckResponse>(
      kHealth, "Check", [&](rpc::CallContext, health::HealthCheckRequest request) {
        return CheckHealth(served, own, std::move(request));
      });
  own.AddStream(kHealth, "Watch", /*client_streams=*/false, /*server_streams=*/true,
                [&](rpc::CallContext context, std::shared_ptr<rpc::ServerStream> stream) {
                  return WatchHealth(served, own, std::move(context), std::move(stream));
                });
  for (const char* version : {"v1", "v1alpha"})
    own.AddStream(absl::StrCat("grpc.reflection.", version, ".ServerReflection"),
                  "ServerReflectionInfo", /*client_streams=*/true, /*server_streams=*/true,
                  [&](rpc::CallContext, std::shared_ptr<rpc::ServerStream> stream) {
                    return ServeReflection(served, own, std::move(stream));
                  });
}

}  // namespace feather::grpc
