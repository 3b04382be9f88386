#include "tests/support/subprocess.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <thread>

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace feather::test {
namespace {

using SteadyClock = std::chrono::steady_clock;

int RemainingMs(SteadyClock::time_point until) {
  const auto left = std::chrono::duration_cast<Milliseconds>(until - SteadyClock::now()).count();
  return left < 0 ? 0 : static_cast<int>(left) + 1;
}

std::pair<UniqueFd, UniqueFd> Pipe() {
  int fds[2] = {-1, -1};
  if (pipe2(fds, O_CLOEXEC) != 0) ADD_FAILURE() << "pipe2 failed, errno " << errno;
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& s : strings) pointers.push_back(const_cast<char*>(s.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

[[noreturn]] void Exec(const Subprocess::Options& options, std::array<int, 3> stdio) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  signal(SIGPIPE, SIG_DFL);
  for (int i = 0; i < 3; ++i) dup2(stdio[static_cast<size_t>(i)], i);
  if (options.terminal) {
    setsid();
    ioctl(0, TIOCSCTTY, 0);
  }
  if (!options.working_directory.empty() && chdir(options.working_directory.c_str()) != 0)
    _exit(126);
  std::vector<char*> argv = Pointers(options.argv);
  std::vector<char*> env = Pointers(options.env);
  if (!options.env.empty()) environ = env.data();
  execvp(argv[0], argv.data());
  _exit(127);
}

}  // namespace

Subprocess::Subprocess(const Options& options) {
  signal(SIGPIPE, SIG_IGN);
  UniqueFd in, out, err;
  if (options.terminal) {
    int master = -1, slave = -1;
    if (openpty(&master, &slave, nullptr, nullptr, nullptr) != 0)
      ADD_FAILURE() << "openpty failed, errno " << errno;
    fcntl(master, F_SETFD, FD_CLOEXEC);
    fcntl(slave, F_SETFD, FD_CLOEXEC);
    output_.Reset(master);
    input_.Reset(fcntl(master, F_DUPFD_CLOEXEC, 3));
    out.Reset(slave);
    in.Reset(fcntl(slave, F_DUPFD_CLOEXEC, 3));
    err.Reset(fcntl(slave, F_DUPFD_CLOEXEC, 3));
  } else {
    if (options.input) {
      std::tie(in, input_) = Pipe();
    } else {
      in.Reset(open("/dev/null", O_RDONLY | O_CLOEXEC));
    }
    if (options.output_file.empty()) {
      std::tie(output_, out) = Pipe();
      std::tie(error_, err) = Pipe();
    } else {
      out.Reset(open(options.output_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
      err.Reset(fcntl(out.get(), F_DUPFD_CLOEXEC, 3));
    }
  }
  if (input_) fcntl(input_.get(), F_SETFL, O_NONBLOCK);
  // A program that ends before it has read everything is seen by its exit, not by a signal to the
  // test.
  signal(SIGPIPE, SIG_IGN);
  pid_ = fork();
  if (pid_ == 0) signal(SIGPIPE, SIG_DFL);
  if (pid_ == 0) Exec(options, {in.get(), out.get(), err.get()});
}

Subprocess::~Subprocess() {
  if (status_ || pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void Subprocess::Signal(int signal) const {
  if (!status_ && pid_ > 0) kill(pid_, signal);
}

void Subprocess::Resize(unsigned short columns, unsigned short rows) const {
  winsize size{};
  size.ws_col = columns;
  size.ws_row = rows;
  ioctl(output_.get(), TIOCSWINSZ, &size);
}

void Subprocess::ReadInto(UniqueFd& fd, std::string& text) {
  char buffer[65536];
  const ssize_t n = read(fd.get(), buffer, sizeof buffer);
  if (n > 0) {
    text.append(buffer, static_cast<size_t>(n));
  } else if (n == 0 || (errno != EINTR && errno != EAGAIN)) {
    fd.Reset();  // EIO is a terminal's way to say that nobody is there any more.
  }
}

bool Subprocess::ReadSome(TimePoint until, bool want_write) {
  if (!output_ && !error_) return false;
  pollfd fds[3] = {{output_.get(), POLLIN, 0},
                   {error_.get(), POLLIN, 0},
                   {want_write ? input_.get() : -1, POLLOUT, 0}};
  if (poll(fds, 3, RemainingMs(until)) <= 0) return true;
  if (fds[0].revents != 0) ReadInto(output_, out_);
  if (fds[1].revents != 0) ReadInto(error_, err_);
  return true;
}

bool Subprocess::Send(absl::string_view data, Milliseconds limit) {
  const auto until = SteadyClock::now() + limit;
  while (!data.empty() && input_) {
    const ssize_t n = write(input_.get(), data.data(), data.size());
    if (n > 0) {
      data.remove_prefix(static_cast<size_t>(n));
    } else if (errno != EAGAIN && errno != EINTR) {
      return false;
    } else if (SteadyClock::now() >= until || !ReadSome(until, true)) {
      return false;
    }
  }
  return data.empty();
}

bool Subprocess::WaitOutput(absl::FunctionRef<bool(const std::string&)> done, Milliseconds limit) {
  const auto until = SteadyClock::now() + limit;
  while (!done(out_)) {
    if (SteadyClock::now() >= until || !ReadSome(until)) return done(out_);
  }
  return true;
}

bool Subprocess::WaitOutput(absl::string_view text, Milliseconds limit) {
  return WaitOutput([text](const std::string& out) { return absl::StrContains(out, text); }, limit);
}

std::optional<int> Subprocess::Wait(Milliseconds limit) {
  const auto until = SteadyClock::now() + limit;
  while (ReadSome(until)) {
    if (SteadyClock::now() >= until) return std::nullopt;
  }
  Eventually(
      [this] {
        int status = 0;
        if (!status_ && waitpid(pid_, &status, WNOHANG) == pid_)
          status_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        return status_.has_value();
      },
      Milliseconds(RemainingMs(until)));
  return status_;
}

bool Subprocess::Pump(absl::FunctionRef<size_t(char*, size_t)> produce,
                      absl::FunctionRef<void(absl::string_view)> consume, Milliseconds limit) {
  std::string chunk;
  size_t sent = 0;
  auto until = SteadyClock::now() + limit;
  while (output_) {
    if (SteadyClock::now() >= until) return false;
    if (input_ && sent == chunk.size()) {
      chunk.resize(65536);
      chunk.resize(produce(chunk.data(), chunk.size()));
      sent = 0;
      if (chunk.empty()) CloseInput();
    }
    ReadSome(until, input_.valid());
    if (input_) {
      const ssize_t n = write(input_.get(), chunk.data() + sent, chunk.size() - sent);
      if (n < 0 && errno != EAGAIN && errno != EINTR) return false;
      if (n > 0) sent += static_cast<size_t>(n);
      if (n > 0) until = SteadyClock::now() + limit;
    }
    if (!out_.empty()) {
      consume(out_);
      out_.clear();
      until = SteadyClock::now() + limit;
    }
  }
  return true;
}

CommandResult RunCommand(const Subprocess::Options& options, Milliseconds limit) {
  Subprocess command(options);
  const std::optional<int> code = command.Wait(limit);
  return {code.value_or(-1), command.out(), command.err()};
}

bool Eventually(absl::FunctionRef<bool()> condition, Milliseconds limit) {
  const auto until = SteadyClock::now() + limit;
  for (Milliseconds pause{1}; !condition(); pause = std::min(pause * 2, Milliseconds(50))) {
    if (SteadyClock::now() >= until) return condition();
    std::this_thread::sleep_for(pause);
  }
  return true;
}

}  // namespace feather::test
