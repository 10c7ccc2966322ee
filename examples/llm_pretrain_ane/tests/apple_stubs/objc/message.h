/* Declared without arguments, as in current headers: a caller must cast it to the type of the method. */
#ifndef OBJC_MESSAGE_H
#define OBJC_MESSAGE_H

#include <objc/runtime.h>

void objc_msgSend(void);

#endif
