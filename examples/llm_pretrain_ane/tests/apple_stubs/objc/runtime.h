/* What ane.c uses of the Objective-C runtime, declared by us for tests without a Mac. */
#ifndef OBJC_RUNTIME_H
#define OBJC_RUNTIME_H

#include <stdbool.h>

typedef struct objc_object *id;
typedef struct objc_class *Class;
typedef struct objc_selector *SEL;
typedef struct objc_method *Method;
typedef bool BOOL;

Class objc_getClass(const char *name);
SEL sel_registerName(const char *name);
Method class_getClassMethod(Class class, SEL selector);
Method class_getInstanceMethod(Class class, SEL selector);

#endif
