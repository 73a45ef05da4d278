/* Needs three symbols that nobody has. */
extern int nobody_has_this_function(int);
extern int nobody_has_this_variable;
extern int nobody_has_this_either(void);

int undefined_entry(int x)
{
    return nobody_has_this_function(x) + nobody_has_this_variable + nobody_has_this_either();
}
