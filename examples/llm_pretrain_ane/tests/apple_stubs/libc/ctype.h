/* Declared by us, for the compiler only: what ane/ uses of this header of macOS. */
#ifndef STUB_CTYPE_H
#define STUB_CTYPE_H

int isalnum(int character), isalpha(int character), isdigit(int character), isspace(int character);
int isprint(int character), isxdigit(int character), tolower(int character), toupper(int character);

#endif
