/* Declared by us, for the compiler only: what ane/ uses of this header of macOS. */
#ifndef STUB_STDIO_H
#define STUB_STDIO_H

#include <stdarg.h>
#include <stddef.h>
#include <sys/types.h>

typedef struct file_stream FILE;
extern FILE *__stdinp, *__stdoutp, *__stderrp;
#define stdin __stdinp
#define stdout __stdoutp
#define stderr __stderrp
enum { SEEK_SET = 0, SEEK_CUR = 1, SEEK_END = 2, EOF = -1, _IOFBF = 0 };

FILE *fopen(const char *path, const char *mode);
FILE *fdopen(int file, const char *mode);
int fclose(FILE *file);
int fflush(FILE *file);
int ferror(FILE *file);
int setvbuf(FILE *file, char *buffer, int mode, size_t bytes);
int feof(FILE *file);
int fileno(FILE *file);
size_t fread(void *buffer, size_t bytes, size_t count, FILE *file);
size_t fwrite(const void *buffer, size_t bytes, size_t count, FILE *file);
int fseek(FILE *file, long offset, int whence);
long ftell(FILE *file);
int fseeko(FILE *file, off_t offset, int whence);
int puts(const char *text);
int fputs(const char *text, FILE *file);
int fputc(int character, FILE *file);
int putchar(int character);
int remove(const char *path);
int rename(const char *from, const char *to);
int renameat(int from_folder, const char *from, int to_folder, const char *to);
int printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
int fprintf(FILE *file, const char *format, ...) __attribute__((format(printf, 2, 3)));
int snprintf(char *text, size_t bytes, const char *format, ...) __attribute__((format(printf, 3, 4)));
int vfprintf(FILE *file, const char *format, va_list rest);
int vsnprintf(char *text, size_t bytes, const char *format, va_list rest);
int sscanf(const char *text, const char *format, ...) __attribute__((format(scanf, 2, 3)));

#endif
