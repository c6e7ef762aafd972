/* Show a program that was moved, with all that belongs to it, its own files where it looks in /usr.
 *
 * Each program of the peers' tree is linked with this (see relocate.py). Many have absolute paths
 * compiled into them that no option and no variable changes: Dovecot's modules, for instance. So a
 * path below /usr that exists in the tree is the tree's; whatever else is named is the host's.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *moved(const char *path, char *room)
{
	int before = errno;

	if (path == NULL || strncmp(path, "/usr/", 5) != 0 ||
	    strlen(path) + sizeof(TREE) > PATH_MAX)
		return path;
	strcat(strcpy(room, TREE), path);
	/* Not by access(), which is one of those below. */
	if (syscall(SYS_faccessat, AT_FDCWD, room, F_OK) == 0)
		return room;
	errno = before;
	return path;
}

#define MOVE(type, name, parameters, ...)                                                          \
	type name parameters                                                                       \
	{                                                                                          \
		static type(*next) parameters;                                                     \
		char room[PATH_MAX];                                                               \
		if (next == NULL)                                                                  \
			next = (type(*) parameters)dlsym(RTLD_NEXT, #name);                        \
		path = moved(path, room);                                                          \
		return next(__VA_ARGS__);                                                          \
	}

/* The mode is there only where a file may be made. */
#define MAKES(flags) (((flags) & O_CREAT) != 0 || ((flags) & O_TMPFILE) == O_TMPFILE)
#define MOVE_OPEN(name)                                                                            \
	int name(const char *path, int flags, ...)                                                 \
	{                                                                                          \
		static int (*next)(const char *, int, ...);                                        \
		char room[PATH_MAX];                                                               \
		va_list more;                                                                      \
		va_start(more, flags);                                                             \
		mode_t mode = MAKES(flags) ? va_arg(more, mode_t) : 0;                             \
		va_end(more);                                                                      \
		if (next == NULL)                                                                  \
			next = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name);           \
		return next(moved(path, room), flags, mode);                                       \
	}
#define MOVE_OPENAT(name)                                                                          \
	int name(int folder, const char *path, int flags, ...)                                     \
	{                                                                                          \
		static int (*next)(int, const char *, int, ...);                                   \
		char room[PATH_MAX];                                                               \
		va_list more;                                                                      \
		va_start(more, flags);                                                             \
		mode_t mode = MAKES(flags) ? va_arg(more, mode_t) : 0;                             \
		va_end(more);                                                                      \
		if (next == NULL)                                                                  \
			next = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, #name);      \
		return next(folder, moved(path, room), flags, mode);                               \
	}

MOVE_OPEN(open)
MOVE_OPEN(open64)
MOVE_OPENAT(openat)
MOVE_OPENAT(openat64)
MOVE(int, __open_2, (const char *path, int flags), path, flags)
MOVE(int, __open64_2, (const char *path, int flags), path, flags)
MOVE(FILE *, fopen, (const char *path, const char *mode), path, mode)
MOVE(FILE *, fopen64, (const char *path, const char *mode), path, mode)
MOVE(DIR *, opendir, (const char *path), path)
MOVE(int, access, (const char *path, int mode), path, mode)
MOVE(int, stat, (const char *path, struct stat *found), path, found)
MOVE(int, stat64, (const char *path, struct stat64 *found), path, found)
MOVE(int, lstat, (const char *path, struct stat *found), path, found)
MOVE(int, lstat64, (const char *path, struct stat64 *found), path, found)
MOVE(int, fstatat, (int folder, const char *path, struct stat *found, int flags), folder, path,
     found, flags)
MOVE(int, fstatat64, (int folder, const char *path, struct stat64 *found, int flags), folder, path,
     found, flags)
MOVE(char *, realpath, (const char *path, char *into), path, into)
MOVE(ssize_t, readlink, (const char *path, char *into, size_t size), path, into, size)
MOVE(void *, dlopen, (const char *path, int flags), path, flags)
MOVE(int, execv, (const char *path, char *const words[]), path, words)
MOVE(int, execvp, (const char *path, char *const words[]), path, words)
MOVE(int, execve, (const char *path, char *const words[], char *const variables[]), path, words,
     variables)
MOVE(int, posix_spawn,
     (pid_t *child, const char *path, const posix_spawn_file_actions_t *actions,
      const posix_spawnattr_t *attributes, char *const words[], char *const variables[]),
     child, path, actions, attributes, words, variables)

/* A server that insists on a user of its own finds one also where its package is not installed. */
#define ADD(type, name, file, next_entry, field)                                                   \
	type *name(const char *wanted)                                                             \
	{                                                                                          \
		static type *(*next)(const char *);                                                \
		type *found;                                                                       \
		if (next == NULL)                                                                  \
			next = (type * (*)(const char *)) dlsym(RTLD_NEXT, #name);                 \
		if ((found = next(wanted)) == NULL) {                                              \
			FILE *own = fopen(TREE file, "re");                                        \
			while (own != NULL && (found = next_entry(own)) != NULL &&                 \
			       strcmp(found->field, wanted) != 0)                                  \
				;                                                                  \
			if (own != NULL)                                                           \
				fclose(own);                                                       \
		}                                                                                  \
		return found;                                                                      \
	}

ADD(struct passwd, getpwnam, "/etc/passwd", fgetpwent, pw_name)
ADD(struct group, getgrnam, "/etc/group", fgetgrent, gr_name)

/* One that refuses to be root, and as somebody else could not get to a tree in root's own folder,
 * is told that it is somebody else. */
#define TELL(name, number)                                                                         \
	uid_t name(void)                                                                           \
	{                                                                                          \
		const char *told = getenv("TLSIFY_PEER_UID");                                      \
		return told != NULL ? (uid_t)atoi(told) : (uid_t)syscall(number);                  \
	}

TELL(getuid, SYS_getuid)
TELL(geteuid, SYS_geteuid)
