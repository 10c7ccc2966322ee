/* What ane.c uses of CoreFoundation, declared by us for tests without a Mac. */
#ifndef CORE_FOUNDATION_H
#define CORE_FOUNDATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef long CFIndex;
typedef unsigned char Boolean;
typedef uint8_t UInt8;
typedef uint32_t CFStringEncoding;
typedef CFIndex CFNumberType;

typedef const void *CFTypeRef;
typedef const struct __CFAllocator *CFAllocatorRef;
typedef const struct __CFString *CFStringRef;
typedef const struct __CFData *CFDataRef;
typedef const struct __CFNumber *CFNumberRef;
typedef const struct __CFArray *CFArrayRef;
typedef const struct __CFDictionary *CFDictionaryRef;
typedef struct __CFDictionary *CFMutableDictionaryRef;
typedef struct __CFError *CFErrorRef;

typedef struct {
    CFIndex location, length;
} CFRange;
static inline CFRange CFRangeMake(CFIndex location, CFIndex length) {
    return (CFRange){location, length};
}

typedef struct {
    CFIndex version;
} CFArrayCallBacks;
typedef struct {
    CFIndex version;
} CFDictionaryKeyCallBacks;
typedef struct {
    CFIndex version;
} CFDictionaryValueCallBacks;

extern const CFArrayCallBacks kCFTypeArrayCallBacks;
extern const CFDictionaryKeyCallBacks kCFTypeDictionaryKeyCallBacks;
extern const CFDictionaryValueCallBacks kCFTypeDictionaryValueCallBacks;

enum { kCFNumberSInt64Type = 4 };
#define kCFStringEncodingUTF8 ((CFStringEncoding)0x08000100)

CFTypeRef CFRetain(CFTypeRef object);
void CFRelease(CFTypeRef object);
CFStringRef CFCopyDescription(CFTypeRef object);
CFIndex CFErrorGetCode(CFErrorRef error);
CFStringRef CFErrorGetDomain(CFErrorRef error);
CFStringRef CFStringCreateWithCString(CFAllocatorRef allocator, const char *text, CFStringEncoding encoding);
Boolean CFStringGetCString(CFStringRef string, char *buffer, CFIndex bytes, CFStringEncoding encoding);
CFIndex CFStringGetBytes(CFStringRef string, CFRange range, CFStringEncoding encoding, UInt8 loss_byte,
                         Boolean is_external, UInt8 *buffer, CFIndex most_bytes, CFIndex *used_bytes);
CFIndex CFStringGetLength(CFStringRef string);
CFDataRef CFDataCreate(CFAllocatorRef allocator, const UInt8 *bytes, CFIndex length);
CFNumberRef CFNumberCreate(CFAllocatorRef allocator, CFNumberType type, const void *value);
CFArrayRef CFArrayCreate(CFAllocatorRef allocator, const void **values, CFIndex count, const CFArrayCallBacks *are);
CFDictionaryRef CFDictionaryCreate(CFAllocatorRef allocator, const void **keys, const void **values, CFIndex count,
                                   const CFDictionaryKeyCallBacks *keys_are,
                                   const CFDictionaryValueCallBacks *values_are);
CFMutableDictionaryRef CFDictionaryCreateMutable(CFAllocatorRef allocator, CFIndex capacity,
                                                 const CFDictionaryKeyCallBacks *keys_are,
                                                 const CFDictionaryValueCallBacks *values_are);
void CFDictionarySetValue(CFMutableDictionaryRef dictionary, const void *key, const void *value);

/* A constant string: made by the compiler for Apple's target, by the fake framework elsewhere. */
#ifdef __APPLE__
#define CFSTR(text) ((CFStringRef)__builtin___CFStringMakeConstantString(text))
#else
CFStringRef fake_constant(const char *text);
#define CFSTR(text) fake_constant(text)
#endif

#endif
