/* Two operations that LazyFS leaves out and a relay needs: its admin socket is a node in the data
 * directory, and it asks how much room is left. Linked with --wrap=fuse_main_real, so that the source
 * of LazyFS stays as it is. Both have nothing to do with what LazyFS caches. */
#define FUSE_USE_VERSION 31
#include <errno.h>
#include <fuse3/fuse.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

static int make_node(const char *path, mode_t mode, dev_t device) {
    return mknod(path, mode, device) == 0 ? 0 : -errno;
}

static int room(const char *path, struct statvfs *out) {
    return statvfs(path, out) == 0 ? 0 : -errno;
}

int __real_fuse_main_real(int argc, char *argv[], const struct fuse_operations *operations,
                          size_t bytes, void *data);

int __wrap_fuse_main_real(int argc, char *argv[], const struct fuse_operations *operations,
                          size_t bytes, void *data) {
    struct fuse_operations all = *operations;
    all.mknod = make_node;
    all.statfs = room;
    return __real_fuse_main_real(argc, argv, &all, bytes, data);
}
