// Asio's functions that are no templates, once for the whole program (ASIO_SEPARATE_COMPILATION).
#include <asio/impl/src.hpp>

#ifdef FEATHER_STATIC
// feather resolves no host name. Without these a static program would carry glibc's resolver, which
// wants shared libraries at run time.
extern "C" {
int getaddrinfo(const char*, const char*, const addrinfo*, addrinfo**) { return EAI_FAIL; }
void freeaddrinfo(addrinfo*) {}
}
#endif
