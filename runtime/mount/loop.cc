#include "runtime/mount/loop.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "runtime/base/file.h"
#include "runtime/base/status.h"

namespace feather {
namespace {

constexpr int kAttempts = 100;

// Linux before 5.8. 0 or an errno.
int ConfigureInSteps(int device, int file, const loop_config& config) {
  if (ioctl(device, LOOP_SET_FD, file) < 0) return errno;
  int error = ioctl(device, LOOP_SET_STATUS64, &config.info) < 0 ? errno : 0;
  if (error == 0 && (config.info.lo_flags & LO_FLAGS_DIRECT_IO) != 0 &&
      ioctl(device, LOOP_SET_DIRECT_IO, 1UL) < 0)
    error = errno;
  if (error != 0) ioctl(device, LOOP_CLR_FD);
  return error;
}

int Configure(int device, int file, const loop_config& config) {
  if (ioctl(device, LOOP_CONFIGURE, &config) == 0) return 0;
  if (errno == EINVAL || errno == ENOTTY || errno == ENOSYS)
    return ConfigureInSteps(device, file, config);
  return errno;
}

}  // namespace

absl::StatusOr<LoopDevice> AttachLoop(const std::string& file, bool read_only, bool direct_io) {
  int mode = read_only ? O_RDONLY : O_RDWR;
  ASSIGN_OR_RETURN(UniqueFd control, OpenFile("/dev/loop-control", O_RDWR));
  ASSIGN_OR_RETURN(UniqueFd backing, OpenFile(file, mode));
  loop_config config = {};
  config.fd = static_cast<uint32_t>(backing.get());
  config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
  if (read_only) config.info.lo_flags |= LO_FLAGS_READ_ONLY;
  if (direct_io) config.info.lo_flags |= LO_FLAGS_DIRECT_IO;
  file.copy(reinterpret_cast<char*>(config.info.lo_file_name), LO_NAME_SIZE - 1);
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return ErrnoError(errno, "find a free loop device");
    LoopDevice loop{absl::StrCat("/dev/loop", number), {}};
    ASSIGN_OR_RETURN(loop.fd, OpenFile(loop.path, mode));
    int error = Configure(loop.fd.get(), backing.get(), config);
    if (error == 0) return loop;
    if (error != EBUSY) return ErrnoError(error, absl::StrCat("attach ", file, " to ", loop.path));
    // Out of step with whoever else is looking for one.
    usleep(static_cast<useconds_t>(1000 * (1 + (getpid() + attempt) % 10)));
  }
  return absl::UnknownError(
      absl::StrCat("no loop device for ", file, " after ", kAttempts, " attempts"));
}

}  // namespace feather
