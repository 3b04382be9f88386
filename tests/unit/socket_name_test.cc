#include "shim/commands/socket_name.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>

namespace feather {
namespace {

TEST(Sha256, MatchesKnownDigests) {
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  // Around the block's length, where the padding changes.
  EXPECT_EQ(Sha256Hex(std::string(55, 'a')),
            "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
  EXPECT_EQ(Sha256Hex(std::string(56, 'a')),
            "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a");
  EXPECT_EQ(Sha256Hex(std::string(64, 'a')),
            "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
  EXPECT_EQ(Sha256Hex(std::string(1000, 'a')),
            "41edece42d63e8d9bf515a9ba6932e1c20cbc9f5a5d134645adb5db1b9737ea3");
}

// What Go's path.Clean makes of them.
TEST(CleanPath, ResolvesAsGoDoes) {
  const std::pair<const char*, const char*> cases[] = {{"", "."},
                                                       {"/", "/"},
                                                       {"//", "/"},
                                                       {"a//b", "a/b"},
                                                       {"a/./b", "a/b"},
                                                       {"a/../b", "b"},
                                                       {"../a", "../a"},
                                                       {"/../a", "/a"},
                                                       {"a/..", "."},
                                                       {"a/../..", ".."},
                                                       {"/a/b/../../..", "/"},
                                                       {"./a", "a"},
                                                       {"a/b/", "a/b"},
                                                       {"...", "..."},
                                                       {"/a/.../b", "/a/.../b"},
                                                       {"a/../../../b", "../../b"}};
  for (const auto& [path, clean] : cases) EXPECT_EQ(CleanPath(path), clean) << path;
}

// Contract L10; digests of the joined paths made by another implementation.
// Checklist: L10.
TEST(SocketPath, IsTheDigestOfAddressNamespaceAndGroup) {
  EXPECT_EQ(SocketPath(kSocketDirectory, "/run/containerd/containerd.sock", "k8s.io", "pod1"),
            "/run/containerd/s/8e264b1ad347c80aee5f3dea6e4bb53d72026989222058782273d5db043c7723");
  EXPECT_EQ(SocketPath("/other", "/run/containerd/containerd.sock", "default", "a", "debug"),
            "/other/43cb45afe1cbc7edf6bd91fa1d19f9fab30717c9c6ed9c17d773759c2fa638cd");
  EXPECT_EQ(SocketPath("/d", "rel", "ns", "g"),
            "/d/45f93d4967d38f6c5492a9837df778f15efb374860ee7d1bfb6e83a3de932ea3");
}

TEST(SocketPath, CleansWhatItJoinsAndSkipsWhatIsEmpty) {
  EXPECT_EQ(SocketPath("/d", "/run//x/../containerd.sock", "ns", "g"),
            SocketPath("/d", "/run/containerd.sock/", "ns", "g"));
  EXPECT_EQ(SocketPath("/d", "", "rel/ns", "g"), SocketPath("/d", "rel", "ns", "g"));
  EXPECT_EQ(SocketPath("/d", "", "", ""),
            "/d/e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

}  // namespace
}  // namespace feather
